"""How low J could be at best: a bound below every schedule, and what a search attains."""
