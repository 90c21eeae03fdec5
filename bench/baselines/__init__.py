"""What Senryu is measured against: who they are, how they are installed and started, and two minimal servers."""
