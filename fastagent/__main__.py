"""`python -m fastagent` is the `fastagent` command."""

from fastagent.gateway.cli import main

if __name__ == "__main__":
    main()
