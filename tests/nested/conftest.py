"""The modules under test are the parts of a program; they are imported as it imports them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
