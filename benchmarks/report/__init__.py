"""What is made of rows: tables, pictures, goals, what has moved, and the page."""
