"""What Raceline knows of Keras: its two file formats, its configurations, and its layers."""
