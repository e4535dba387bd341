"""`python -m vllama` is the same as the `vllama` command."""

from vllama.cli.main import main

if __name__ == "__main__":
    main()
