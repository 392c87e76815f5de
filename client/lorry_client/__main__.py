"""`python -m lorry_client` is `lorry`."""

from lorry_client.cli.main import main

if __name__ == "__main__":
    main()
