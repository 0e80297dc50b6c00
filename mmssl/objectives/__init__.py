"""What methods share: bases of objectives, and the state that they keep: banks, queues, teachers."""
