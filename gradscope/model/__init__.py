"""What is known of the user's model: its layers, what runs in it, where its parts are."""
