"""Sample firmware images and release manifests, with the recipe that makes them (`build`)."""
