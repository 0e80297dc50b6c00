"""`python -m mmssl` is the `mmssl` command; `torchrun -m mmssl train RECIPE` trains on several devices."""

from mmssl.cli import main

raise SystemExit(main())
