"""The method: features become a task, the objective is descended, a solution comes out."""
