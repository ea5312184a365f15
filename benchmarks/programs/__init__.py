"""Programs that rivals run as processes of their own."""
