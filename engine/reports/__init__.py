"""What an HTML report reads of run folders: predictions, their data and how a run was made."""
