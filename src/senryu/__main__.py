"""`python -m senryu`: the same command as `senryu`. Knows nothing else."""

from senryu.cli import main

main(prog_name="senryu")
