"""How good is a model, how far can its confidence be trusted, and what does it get wrong? Numbers and pages."""
