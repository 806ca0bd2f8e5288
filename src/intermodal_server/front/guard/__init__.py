"""Who may ask and how often: API keys, rates, requests at a time, clients that do not read.

Takes an exchange before its body is read, hands on nothing or a `Refusal`. What is off is not there: `setup` gives the
application only the guards that the settings ask for.
"""
