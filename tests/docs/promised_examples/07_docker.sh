make image
make compose-up
