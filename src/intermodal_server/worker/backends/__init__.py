"""One file per framework; `interface` says what each offers."""
