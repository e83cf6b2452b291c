"""TensorBoard's GRADSCOPE tab: what its server answers, and the page that asks."""
