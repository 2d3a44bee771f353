"""What is timed, against what, and how: ratios, each measured in one run."""
