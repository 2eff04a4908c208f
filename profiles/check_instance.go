package profiles

// Learns tells whether the link gets addresses of a family that the profile does not say: from a server, from routers,
// or from an identity disk that is not known yet.
func (l *Link) Learns(v6 bool) bool {
	return l.DHCP && !v6 || l.Learns6() && v6 || l.Instance && len(l.Addresses) == 0
}

// instance checks a link whose addresses or gateways are on the identity disk of each guest. There are all of them:
// which ones they are cannot be weighed against others here. The profile of a guest has them in their places.
func (v *validator) instance(l *Link) {
	if !l.Instance && !l.InstanceGateway {
		return
	}
	at := v.places.find(l.At, "links.%s.instance", l.Name)
	switch {
	case !l.Instance && len(l.Addresses) == 0 && !v.places.spoilt("links.%s.address", l.Name):
		v.reject(at, "write address: instance too", "links.%s.gateway: instance, but the addresses of the link are learnt: "+
			"then its gateway is too", clip(l.Name))
	case l.Instance && (l.DHCP || l.Learns6()):
		v.reject(at, "write instance alone, or leave it out",
			"links.%s.address: instance, and addresses that servers or routers give besides", clip(l.Name))
	case l.WireGuard != nil:
		v.reject(at, "write its addresses", "links.%s: what a tunnel's addresses are is the profile's to say", clip(l.Name))
	}
}
