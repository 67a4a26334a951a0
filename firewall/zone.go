package firewall

import "context"

// DefaultZone gives the zone of every interface and source that is bound to none.
func (c *Client) DefaultZone(ctx context.Context) (string, error) {
	var zone string
	if err := c.ask(ctx, busName, objectPath, ifaceMain+".getDefaultZone", &zone); err != nil {
		return "", c.fail(ctx, "read the default zone of firewalld", "", "", Port{}, err)
	}
	return zone, nil
}

// ZoneOfInterface gives the zone that an interface's packets go through: the one it is bound to at runtime, else the default zone.
func (c *Client) ZoneOfInterface(ctx context.Context, iface string) (string, error) {
	var zone string
	if err := c.ask(ctx, busName, objectPath, ifaceZone+".getZoneOfInterface", &zone, iface); err != nil {
		return "", c.fail(ctx, "find the zone of interface "+iface, "", "", Port{}, err)
	}
	if zone != "" {
		return zone, nil
	}
	return c.DefaultZone(ctx)
}

// Zones gives the names of the zones that exist at runtime.
func (c *Client) Zones(ctx context.Context) ([]string, error) {
	var zones []string
	if err := c.ask(ctx, busName, objectPath, ifaceZone+".getZones", &zones); err != nil {
		return nil, c.fail(ctx, "list the zones of firewalld", "", "", Port{}, err)
	}
	return zones, nil
}
