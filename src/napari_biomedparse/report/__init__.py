"""What a run found, why it found nothing, and the pages that show it."""
