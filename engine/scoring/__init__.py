"""The scoring side: the only place where private images and reconstructions meet."""
