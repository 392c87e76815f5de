"""Looking after the stores: collecting what no version names, and checking that the rest is whole."""
