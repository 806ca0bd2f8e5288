"""One module for each way of asking; each offers `routes(service)`: path -> method -> handler."""
