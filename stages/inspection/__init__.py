"""What lies in a run's folder, for people and scripts: files read as they are, facts as plain values, pages of them."""
