"""What every HTTP client of the job shares: trust, logging in, bounded and careful requests."""
