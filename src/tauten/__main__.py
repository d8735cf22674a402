"""`python -m tauten` is `tauten`."""
# SPDX-License-Identifier: Apache-2.0

from tauten.cli.main import main

if __name__ == "__main__":
    main()
