"""How requests reach the model: `interface` says what every execution mode offers, one module for each mode."""
