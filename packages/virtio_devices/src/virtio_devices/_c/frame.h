/* What is known of frames here; virtio_devices.net.frame has the same numbers and says why. */
#ifndef VIRTIO_DEVICES_FRAME_H
#define VIRTIO_DEVICES_FRAME_H

enum { HEADER_SIZE = 12, GSO_TYPE = 1, NUM_BUFFERS = 10 };
enum { SMALLEST = HEADER_SIZE + 14, LARGEST = HEADER_SIZE + 14 + 4 + 0x10000 };

#endif
