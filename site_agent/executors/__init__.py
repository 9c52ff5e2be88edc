"""What a site agent hands runs to. Each executor has a module; `interface` is what they share."""
