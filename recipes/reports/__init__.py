"""Reports of ablations, made from the files of their cells: tables, statistics, pictures and one sentence."""
