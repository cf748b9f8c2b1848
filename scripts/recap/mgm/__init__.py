"""MGM (Mini-Gemini): model, files, LoRA, merge and the checks around them."""
