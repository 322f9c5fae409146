"""Messages and services of glucast."""
