"""``python -m nfp_model``: the same as the ``nfp`` command."""

from nfp_model.cli import main

if __name__ == "__main__":
    main()
