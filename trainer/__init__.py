"""Training: Time-LLM teachers, distilled students, evaluation, publication."""
