"""What the job knows for certain: SQLite or PostgreSQL, through SQLAlchemy Core."""
