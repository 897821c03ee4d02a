"""Foreign data in: files as streams of rows, and the forms of chat and ranked records."""
