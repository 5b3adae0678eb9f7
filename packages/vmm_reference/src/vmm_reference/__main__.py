"""``python -m vmm_reference``: the same as the command ``vmm-reference``."""

import sys

from vmm_reference.cli import main

sys.exit(main())
