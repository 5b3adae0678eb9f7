/* The declarations of irqchip.h and irqchip_pins.h in the form that cffi's cdef() reads; keep the three in step.
   The KVM records are opaque here: cast a buffer of the kernel's size to them. */

#define SK_MAX_VCPUS 16
#define SK_IOAPIC_PINS 24

typedef struct sk_irqchip sk_irqchip;

enum sk_cpu_event { SK_EVENT_INIT = 1, SK_EVENT_SIPI = 2, SK_EVENT_NMI = 4 };

sk_irqchip *sk_irqchip_new(void);
void sk_irqchip_free(sk_irqchip *chip);
void sk_irqchip_add_cpu(sk_irqchip *chip, unsigned cpu);
void sk_irqchip_add_pit(sk_irqchip *chip, uint64_t now);

void sk_irqchip_set_gsi(sk_irqchip *chip, unsigned gsi, bool level);
int sk_irqchip_send_msi(sk_irqchip *chip, uint64_t address, uint32_t data);
bool sk_irqchip_set_pin(sk_irqchip *chip, unsigned irqchip, unsigned pin, bool level);
uint32_t sk_irqchip_take_ended(sk_irqchip *chip, unsigned irqchip);
void sk_irqchip_set_apic_enabled(sk_irqchip *chip, unsigned cpu, bool enabled);

bool sk_irqchip_has_interrupt(const sk_irqchip *chip, unsigned cpu);
int sk_irqchip_acknowledge(sk_irqchip *chip, unsigned cpu);
unsigned sk_irqchip_take_events(sk_irqchip *chip, unsigned cpu, uint8_t *sipi_vector);

uint64_t sk_irqchip_deadline(const sk_irqchip *chip);
void sk_irqchip_expire(sk_irqchip *chip, uint64_t now);

bool sk_irqchip_mmio_read(sk_irqchip *chip, unsigned cpu, uint64_t address, unsigned size, uint64_t *value, uint64_t now);
bool sk_irqchip_mmio_write(sk_irqchip *chip, unsigned cpu, uint64_t address, unsigned size, uint64_t value, uint64_t now);
bool sk_irqchip_pio_read(sk_irqchip *chip, uint16_t port, unsigned size, uint32_t *value, uint64_t now);
bool sk_irqchip_pio_write(sk_irqchip *chip, uint16_t port, unsigned size, uint32_t value, uint64_t now);

int sk_irqchip_get_lapic(const sk_irqchip *chip, unsigned cpu, struct kvm_lapic_state *state, uint64_t now);
int sk_irqchip_set_lapic(sk_irqchip *chip, unsigned cpu, const struct kvm_lapic_state *state, uint64_t now);
int sk_irqchip_get(const sk_irqchip *chip, struct kvm_irqchip *state);
int sk_irqchip_set(sk_irqchip *chip, const struct kvm_irqchip *state);
int sk_irqchip_get_pit(const sk_irqchip *chip, struct kvm_pit_state2 *state, uint64_t now);
int sk_irqchip_set_pit(sk_irqchip *chip, const struct kvm_pit_state2 *state, uint64_t now);
