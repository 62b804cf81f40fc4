"""What runs in the process of a job, one file per noun."""
