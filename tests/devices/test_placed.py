"""Where arrays lie, on forced CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np

from eight import on_eight_devices
from fgjax.devices.placed import device_of, on_cpu


def test_what_lies_nowhere_goes_where_jax_puts_it():
    first = jax.local_devices()[0]
    assert device_of() == device_of(np.ones(3), "text", None) == first
    assert jax.eval_shape(lambda x: jnp.float32(device_of(x) == first), jnp.ones(2)).shape == ()
    assert on_cpu(jnp.ones(2))


def test_the_device_an_array_was_put_on():
    """A committed array draws the others; of a split one it is the first of its devices."""
    result = on_eight_devices("""
        from fgjax.devices.placed import device_of
        loose, third = jnp.ones(2), jax.device_put(np.ones(2), jax.devices()[3])
        found = [device_of(loose), device_of(third), device_of(loose, [third]),
                 device_of(shard(mesh, np.ones(8)))]
        with jax.default_device(jax.devices()[5]):
            found += [device_of(), device_of(jnp.ones(2)), device_of(third)]
        result = [device.id for device in found]
    """)
    assert result == [0, 3, 3, 0, 5, 5, 3]
