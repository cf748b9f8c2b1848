"""The known-answer world: drawn pictures, exact captions, questions, and micro models of them."""
