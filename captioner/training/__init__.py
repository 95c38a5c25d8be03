"""Training of captioners: recipes, objectives, the training loop, distillation and forecasts."""
