"""Several ranks that train one model: what they sum, what they tell each other, and who stands out."""
