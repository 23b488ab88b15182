"""What the KFP compiler reads: tasks, graph, environment."""
