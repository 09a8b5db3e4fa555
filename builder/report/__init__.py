"""What a person sees: terminal, JSON, HTML."""
