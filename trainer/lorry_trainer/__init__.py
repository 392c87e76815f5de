"""Recipes in, adapters out: TRL, PEFT and bitsandbytes do the training.

    lorry_trainer.recipe_file.read_recipe(path) -> Recipe    what to train, checked
    lorry_trainer.run.run(recipe, ...) -> Result             the whole way from a recipe to an adapter folder
    lorry_client.Client().push(folder, name, ...)            that folder into a registry

Ours are the recipe, the data checks, the evaluation and the lineage. Knows nothing about servers and how they store
or run an adapter. What is imported here imports nothing.
"""
