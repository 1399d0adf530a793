"""The user's own data: folders of crops, and tables of pictures or of videos."""
