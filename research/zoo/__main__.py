"""The command `python -m research.zoo`: see build."""

from research.zoo.build import main

raise SystemExit(main())
