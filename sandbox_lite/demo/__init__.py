"""The main job without a model: a task of our own, a scripted model behind HTTP, a checker."""
