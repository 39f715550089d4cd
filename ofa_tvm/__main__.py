"""`python -m ofa_tvm`: the same as `ofa-tvm`."""

from ofa_tvm.cli.main import main

if __name__ == "__main__":
    main()
