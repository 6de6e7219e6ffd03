# One line for each thing a contributor does.
